"""Tools for an AI agent, with an audit trail: a server of the Model Context Protocol.

The access token names the agent and the person who uses it. Those of this example stand in the
source; a real server asks its authorization server.
"""

import os

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl

from ledger.demo.scratch import scratch_ledger
from ledger_client import Recorder, use_recorder
from ledger_client.integrations.mcp import AuditTools, audited_tool

PORT = int(os.environ.get("PORT", "8000"))
URL = AnyHttpUrl(f"http://127.0.0.1:{PORT}/mcp")
ROLES = {"ann": "admin", "jo": "member"}


class Tokens:
    """`ann` and `kim` are tokens of an agent that works for them."""

    async def verify_token(self, token: str) -> AccessToken | None:
        if token not in {"ann", "kim"}:
            return None
        return AccessToken(
            token=token, client_id="assistant", scopes=[], subject=token, resource=str(URL)
        )


server = MCPServer(
    "roles",
    middleware=[AuditTools()],
    token_verifier=Tokens(),
    auth=AuthSettings(issuer_url=URL, resource_server_url=URL),
)


@server.tool()
@audited_tool(target=lambda user: ("user", user), masked=["ticket"])
def change_role(user: str, role: str, ticket: str = "none") -> str:
    """Give a user another role."""
    token = get_access_token()
    if token is None or ROLES.get(token.subject or "") != "admin":
        raise PermissionError("only admins may change roles")  # recorded as `denied`
    ROLES[user] = role
    return f"{user} is {role} (ticket: {ticket})"


if __name__ == "__main__":
    with scratch_ledger():  # does nothing where LEDGER_URL is set
        use_recorder(
            Recorder(
                os.environ["LEDGER_URL"],
                os.environ["LEDGER_TOKEN"],
                policy=os.environ["LEDGER_POLICY"],
                spool=os.environ["LEDGER_SPOOL"],
                service="mcp-example",
            )
        )
        server.run("streamable-http", port=PORT, json_response=True, stateless_http=True)
