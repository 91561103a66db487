"""Flask: the extension `LedgerAudit`.

    audit = LedgerAudit(actor=lambda: ("user", g.user.id) if g.user else None)

    def create_app():
        app = Flask(__name__)
        app.config["LEDGER_PROXIES"] = ["10.0.0.0/8"]
        audit.init_app(app)

Configuration: `LEDGER_PROXIES`, `LEDGER_FORWARDED_HEADER`, `LEDGER_REQUEST_ID_HEADER`, and
`LEDGER_LOGIN_PATHS` (where it is missing, the `login_view` of Flask-Login is used).

The status of the response decides the outcome of an audited view, and a refusal by a decorator or a
function before the request is recorded as its call.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, Response, has_request_context, request, url_for
from werkzeug.datastructures import Headers

from ledger_client.integrations.proxies import environ_header, parse_peer
from ledger_client.integrations.request_info import (
    IterateInContext,
    RequestReader,
    RequestSettings,
    actor_of,
)
from ledger_client.integrations.views import chosen_view, login_check
from ledger_client.recording.acting import BoundActor
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import (
    audit_context,
    current_scope,
    rename_actor,
)
from ledger_client.recording.view_request import ChosenView, ViewRequest, view_request

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

EXTENSION: Final = "ledger_audit"


class LedgerAudit:
    """Sets the audit context of each request of a Flask application."""

    def __init__(
        self, app: Flask | None = None, *, actor: Callable[[], Principal | None] | None = None
    ) -> None:
        """`actor` is called when something is recorded; Flask's globals have the request then.

        Without `actor`, events have no actor from the request.
        """
        self._actor: Final = None if actor is None else actor_of(actor)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Serve one more application. Raises: ValueError for a wrong setting, or a second time."""
        if EXTENSION in app.extensions:
            raise ValueError("this application has the extension already")
        settings: RequestSettings = {}
        for name in RequestSettings.__annotations__:
            value = app.config.get(f"LEDGER_{name.upper()}")
            if value is not None:
                settings[name] = value  # type: ignore[literal-required] # one of its own names
        app.extensions[EXTENSION] = self
        app.after_request(self._keep_actor)
        # Around all of it: functions before the request record events too, and may end it.
        app.wsgi_app = _AuditWSGI(  # type: ignore[method-assign] # as Flask's documentation has it
            app, RequestReader(**settings), self._actor, has_login_paths="login_paths" in settings
        )

    def _keep_actor(self, response: Response) -> Response:
        # Flask's globals are gone while a body is streamed, and when the response is closed. It is
        # another actor if the application has set one, or outside of `wsgi_app`.
        is_own = current_scope().get("actor") is self._actor
        if self._actor is not None and is_own:
            rename_actor(self._actor() if response.is_streamed else BoundActor(self._actor))
        return response


class _AuditWSGI:
    """The WSGI application, with an audit context around it."""

    def __init__(
        self,
        app: Flask,
        reader: RequestReader,
        actor: Callable[[], Principal] | None,
        *,
        has_login_paths: bool,
    ) -> None:
        self._flask: Final = app
        self._app: Final[WSGIApplication] = app.wsgi_app
        self._reader: Final = reader
        self._actor: Final = actor
        self._has_login_paths: Final = has_login_paths

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer one request."""
        arguments = _read(self._reader, environ)
        view = ViewRequest(self._choose, self._is_login)

        def start(status: str, headers: Any, *more: Any) -> Any:
            view.respond(int(status.partition(" ")[0]), Headers(headers).get("Location"))
            return start_response(status, headers, *more)

        with audit_context(fresh=True, actor=self._actor, **arguments), view_request(view):
            body = self._app(environ, start)
            scope = current_scope()
        file_wrapper: Any = environ.get("wsgi.file_wrapper")
        if isinstance(body, list | tuple) or (
            isinstance(file_wrapper, type) and isinstance(body, file_wrapper)
        ):
            return body  # Nothing of the application runs while this is sent.
        return IterateInContext(scope, body)

    def _choose(self) -> ChosenView | None:
        if not has_request_context() or request.endpoint is None:
            return None
        view = self._flask.view_functions.get(request.endpoint)
        return chosen_view(view, request.method, {"request": request, **(request.view_args or {})})

    def _is_login(self, location: str) -> bool:
        login_view = getattr(getattr(self._flask, "login_manager", None), "login_view", None)
        if login_view is None or self._has_login_paths or not has_request_context():
            return self._reader.is_login(location)
        # Flask-Login takes the address of a page in place of the name of a view.
        is_address = login_view.startswith(("/", "http://", "https://"))
        return login_check([login_view if is_address else url_for(login_view)])(location)


def _read(reader: RequestReader, environ: "WSGIEnvironment") -> dict[str, Any]:
    peer = parse_peer(environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT"))

    def header(name: str) -> list[str]:
        return environ_header(environ, name, drops_underscores=reader.drops_underscores)

    return reader.read(peer, header)
