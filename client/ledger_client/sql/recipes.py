"""The SQL of `ledger playbook`: the questions of an incident that are about pairs of events.

Each is a text to begin with: actions and keys of the context have other names elsewhere, so the
command shows the SQL that it runs. `{subject}` is replaced by a literal, and `events` is limited in
time by `sql_of`.
"""

import re
from typing import Final, NamedTuple

from ledger_core.event.canonical import canonical_ip
from ledger_core.event.model import EventError
from ledger_core.query.ast import time_text
from ledger_core.tlog.text import excerpt


class SqlRecipe(NamedTuple):
    """The purpose of the SQL, the name of the value that it takes, and the events that it needs.

    `where` is the query by which these events are fetched from a ledger that is asked over HTTP.
    """

    help: str
    sql: str
    subject: str = ""
    where: str = ""
    is_number: bool = False


RECIPES: Final = {
    "spray-by-day": SqlRecipe(
        "Networks from which many accounts failed to log in on a day, and who got in from there.",
        """SELECT network(source_ip) AS network, time_bucket(INTERVAL 1 DAY, time) AS day,
       count(DISTINCT actor_id) FILTER (outcome IN ('failure', 'denied')) AS failed,
       list(DISTINCT actor_id) FILTER (outcome = 'success') AS got_in
FROM events
WHERE action ILIKE '%login%' AND source_ip IS NOT NULL
GROUP BY ALL
HAVING failed >= 10
ORDER BY failed DESC, network""",
        where="login",
    ),
    "break-ins": SqlRecipe(
        "Logins that succeeded after three failures of the account within an hour.",
        """SELECT "index", time, actor_id, source_ip, failures
FROM (SELECT *, count(*) FILTER (outcome IN ('failure', 'denied')) OVER (
              PARTITION BY actor_id ORDER BY time
              RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW) AS failures
      FROM events WHERE action ILIKE '%login%')
WHERE outcome = 'success' AND failures >= 3
ORDER BY time, "index\"""",
        where="login",
    ),
    "travel": SqlRecipe(
        "Accounts that were in two countries (context.country) within two hours.",
        """SELECT actor_id, was_at, was_in, time, country, "index"
FROM (SELECT actor_id, "index", time, context ->> '$.country' AS country,
             lag(time) OVER by_time AS was_at,
             lag(context ->> '$.country') OVER by_time AS was_in
      FROM events WHERE context ->> '$.country' IS NOT NULL
      WINDOW by_time AS (PARTITION BY actor_id ORDER BY time, "index"))
WHERE country <> was_in AND time - was_at <= INTERVAL 2 HOUR
ORDER BY time, "index\"""",
        where="has:context.country",
    ),
    "overlaps": SqlRecipe(
        "Sessions of one account that went on at the same time in two networks.",
        """WITH sessions AS (
  SELECT actor_id, session, min(time) AS began, max(time) AS ended,
         list(DISTINCT network(source_ip)) AS networks
  FROM events WHERE session IS NOT NULL AND source_ip IS NOT NULL GROUP BY ALL)
SELECT a.actor_id, a.session, b.session AS other, greatest(a.began, b.began) AS both_from,
       least(a.ended, b.ended) AS both_to, a.networks, b.networks AS other_networks
FROM sessions a JOIN sessions b
  ON a.actor_id = b.actor_id AND a.session < b.session
     AND a.began <= b.ended AND b.began <= a.ended
WHERE NOT list_has_any(a.networks, b.networks)
ORDER BY both_from, a.session""",
        where="has:session",
    ),
    "made-and-deleted": SqlRecipe(
        "What was made and deleted again within a day.",
        """SELECT made.target_type, made.target_id, made.time AS made_at, made.actor_id AS made_by,
       gone.time AS gone_at, gone.actor_id AS gone_by, made."index", gone."index" AS gone_index
FROM events made JOIN events gone USING (target_type, target_id)
WHERE regexp_matches(made.action, 'creat|made|added|register', 'i')
  AND regexp_matches(gone.action, 'delet|remov|destroy', 'i')
  AND gone.time BETWEEN made.time AND made.time + INTERVAL 1 DAY
  AND made.outcome = 'success' AND gone.outcome = 'success'
ORDER BY made_at, made."index\"""",
        where="has:target",
    ),
    "large-exports": SqlRecipe(
        "Exports above a size in bytes (context.bytes, bytes_out or size), the largest first.",
        """SELECT "index", time, actor_id, action, target_type, target_id, bytes
FROM (SELECT *, TRY_CAST(coalesce(context ->> '$.bytes', context ->> '$.bytes_out',
                                  context ->> '$.size') AS BIGINT) AS bytes FROM events)
WHERE bytes > {subject}
ORDER BY bytes DESC, "index\"""",
        subject="bytes",
        where="has:context.bytes OR has:context.bytes_out OR has:context.size",
        is_number=True,
    ),
    "off-hours": SqlRecipe(
        "What people did at night and at weekends, in the time zone of their office.",
        """SELECT actor_id, count(*) AS events, min(time) AS first_time, max(time) AS last_time,
       list(DISTINCT action) AS actions
FROM (SELECT *, time AT TIME ZONE {subject} AS there FROM events WHERE actor_type = 'user')
WHERE isodow(there) > 5 OR hour(there) NOT BETWEEN 7 AND 18
GROUP BY actor_id
ORDER BY events DESC, actor_id""",
        subject="zone",
        where="actor.type:user",
    ),
    "dwell": SqlRecipe(
        "How long an address was active, with the credentials that it used; the last row: in all.",
        """SELECT actor_id, count(*) AS events, min(time) AS first_time, max(time) AS last_time,
       max(time) - min(time) AS dwell
FROM events
WHERE source_ip = {subject}
   OR credential IN (SELECT credential FROM events WHERE source_ip = {subject})
GROUP BY ROLLUP (actor_id)
ORDER BY actor_id NULLS LAST""",
        subject="address",
    ),
    "privilege-diff": SqlRecipe(
        "Roles and permissions: what each was before the first change and after the last.",
        """SELECT target_type, target_id, path, first(c.before ORDER BY time, "index") AS before,
       last(c.after ORDER BY time, "index") AS after, count(*) AS changed,
       list(DISTINCT actor_id) AS changed_by
FROM events JOIN changes c USING ("index")
WHERE regexp_matches(path, 'role|permission|acl|owner|group|scope|mfa', 'i')
  AND outcome = 'success'
GROUP BY target_type, target_id, path
HAVING before IS DISTINCT FROM after
ORDER BY target_type, target_id, path""",
        where="has:field",
    ),
    "blast-radius": SqlRecipe(
        "What a credential touched, and what the accounts touched that were made with it.",
        """WITH RECURSIVE reached(kind, id) AS (
  SELECT 'credential', {subject}
  UNION
  SELECT 'account', t.id
  FROM reached r JOIN events e ON r.id = if(r.kind = 'account', e.actor_id, e.credential)
       JOIN targets t USING ("index")
  WHERE t.type IN ('account', 'user') AND e.outcome = 'success'
    AND regexp_matches(e.action, 'creat|made|added', 'i'))
SELECT t.type, t.id, count(*) AS events, min(e.time) AS first_time, max(e.time) AS last_time,
       list(DISTINCT e.actor_id ORDER BY e.actor_id) AS actors
FROM events e JOIN targets t USING ("index")
WHERE e.credential IN (SELECT id FROM reached WHERE kind = 'credential')
   OR e.actor_id IN (SELECT id FROM reached WHERE kind = 'account')
GROUP BY t.type, t.id
ORDER BY t.type, t.id""",
        subject="credential",
    ),
    "log-readers": SqlRecipe(
        "Who took data out of the log itself, as far as the log records it.",
        """SELECT "index", time, actor_id, action, reason, target_id,
       context ->> '$.evidence.query' AS query
FROM events
WHERE regexp_matches(action, '^ledger[.].*(export|read|search|disclos)')
  AND NOT regexp_matches(action, '^ledger[.](recorder|syslog)[.]')
ORDER BY time, "index\"""",
        where="action:ledger.*",
    ),
}


def sql_of(recipe: SqlRecipe, subject: str | None, since_unix_us: int | None) -> str:
    """The SQL that runs. Raises: ValueError for a subject that is no number or address."""
    sql = recipe.sql
    if recipe.subject == "address":
        subject = _address(subject or "")
    if recipe.is_number:
        if not re.fullmatch("[0-9]{1,18}", subject or ""):
            raise ValueError(f"want a number of {recipe.subject}, as 1000000")
        sql = sql.replace("{subject}", subject or "")
    elif recipe.subject:
        quoted = (subject or "").replace("'", "''")
        sql = sql.replace("{subject}", f"'{quoted}'")
    if since_unix_us is None:
        return sql
    limited = (
        "events AS (SELECT * FROM main.events WHERE time >="
        f" TIMESTAMPTZ '{time_text(since_unix_us)}')"
    )
    for begin in ("WITH RECURSIVE ", "WITH "):
        if sql.startswith(begin):
            return f"{begin}{limited},\n{sql.removeprefix(begin)}"
    return f"WITH {limited}\n{sql}"


def _address(text: str) -> str:
    """An address as the events have it: SQL compares texts, so no other form finds one."""
    try:
        return canonical_ip(text)
    except EventError:
        raise ValueError(f"want an address, as 203.0.113.9, not {excerpt(text)}") from None
