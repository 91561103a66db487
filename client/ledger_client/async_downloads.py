"""The calls of a client that write what they receive to files. See `AsyncDownloads`."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ledger_client.async_session import AsyncSession
from ledger_client.async_transport import run_blocking
from ledger_client.base_client import PathLike
from ledger_client.event_values import new_event_id
from ledger_client.plans.evidence import evidence_request, verify_written
from ledger_client.plans.export import ExportVerifier, proof_path, replacing, write_leaving_room
from ledger_client.plans.export_proof import FileFormat
from ledger_client.plans.question import Question, ask_query, check_length
from ledger_client.plans.saved import plan_expansions
from ledger_client.plans.search import Order
from ledger_client.results import EvidenceFile, Exported
from ledger_client.runtime.clock import unix_us
from ledger_client.sql.parquet import check_parquet, rewrite_as_parquet
from ledger_core.api import EVIDENCE_QUERY_CHARS_MAX, AskEvidence
from ledger_core.query.parser import QUERY_CHARS_MAX


class AsyncDownloads(AsyncSession):
    """Writes what a query finds to a file, which appears only when it is complete and verified."""

    async def export(
        self,
        query: str,
        to: PathLike,
        *,
        format: FileFormat = "jsonl",  # noqa: A002 - the parameter's name in the HTTP API too
        order: Order = "oldest",
        verify: bool = True,
    ) -> Exported:
        """Write the events that a query finds to a file, which appears only when it is complete.

        With `verify` each row must meet the query, stand in order, and be in the tree of one
        published head. The proofs are written beside it, to `{to}.proof`, and `ledger verify`
        checks them offline. `parquet` needs the extra `sql`. `evidence` writes a bundle that
        anybody can verify.
        """
        is_parquet = format == "parquet"
        if is_parquet:
            check_parquet()
        verifier = ExportVerifier(
            "jsonl" if format == "parquet" else format,
            question=check_length(await self._ask(query, verify=verify), QUERY_CHARS_MAX),
            order=order,
            heads=self._base.heads_for(verify=verify),
            export_id=new_event_id(),
        )
        with replacing(to) as file, replacing(proof_path(to)) as proofs:
            async with aclosing(self._transport.stream(verifier.request())) as pieces:
                async for piece in pieces:
                    await run_blocking(proofs.write, await self._run(verifier.feed(piece)))
                    await run_blocking(write_leaving_room, file, piece)
            exported, last = await self._run(verifier.finish())
            await run_blocking(proofs.write, last)
            if is_parquet:
                digest, size = await run_blocking(rewrite_as_parquet, file)
                exported = replace(exported, sha256=digest, bytes_written=size)
        if exported.head is None:
            proof_path(to).unlink()
        return exported

    async def evidence(
        self,
        query: str,
        to: PathLike,
        *,
        case: str | None = None,
        reason: str | None = None,
        disclose: Sequence[str] = (),
    ) -> EvidenceFile:
        """Write the events that a query finds to a bundle that anybody can verify offline.

        The log records the export as an event, with the case, a number or name, and the reason.
        `disclose` lists JSON Pointers (`*` is any key): private values there are put beside the
        events, for a token with the scope `private`. The file appears only when it is complete and
        verified; what does not verify is kept under its name and `.refused`.
        """
        heads = self._base.required_heads()
        question = await self._ask(query, may_be_long=True, verify=True)
        check_length(question, EVIDENCE_QUERY_CHARS_MAX)
        ask = AskEvidence(query=question.text, case=case, reason=reason, disclose=tuple(disclose))
        request = evidence_request(ask)
        # What is asked for now is recorded behind every head that there is now.
        before = await self._run(heads.checkpoint())
        digest, size = sha256(), 0
        with replacing(to) as file:
            async with aclosing(self._transport.stream(request)) as pieces:
                async for piece in pieces:
                    digest.update(piece)
                    size += len(piece)
                    await run_blocking(write_leaving_room, file, piece)
            evidence = await run_blocking(
                verify_written,
                file,
                Path(to),
                question=question,
                ask=ask,
                policy=heads.policy,
                size_before=(heads.latest or before).checkpoint.tree_size,
            )
            await self._run(heads.accept(evidence.head.note))
        return EvidenceFile(evidence=evidence, sha256=digest.hexdigest(), bytes_written=size)

    async def _ask(
        self, query: str, *, verify: bool, cursor: str | None = None, may_be_long: bool = False
    ) -> Question:
        """The question of a query, with what each `@name` in it stands for."""
        heads = self._base.heads_for(verify=verify)
        return ask_query(
            query,
            now_unix_us=unix_us(),
            cursor=cursor,
            may_be_long=may_be_long,
            named=await self._run(plan_expansions(query, heads=heads)),
        )
