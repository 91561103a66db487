"""Middleware for web frameworks and task queues: sets the audit context of each request or job.

proxies       the address that a request came from, behind proxies
request_info  a request as the arguments of `audit_context`, for all frameworks
asgi          Starlette and FastAPI
flask         Flask
aiohttp       aiohttp
celery, rq    jobs, in the audit context of the code that sent them
mcp           tools of AI agents, by the SDK of the Model Context Protocol
sqlalchemy    a session that records writes of many rows
views         the view that a framework has chosen for a request
django        Django; with django_settings, django_users (logins, refusals), django_fields (the
              setting MODELS), django_models, django_bulk (writes of many rows), django_checks,
              django_impersonation (who works as another user)

Only the module of a framework imports it. Each request or job starts with an empty audit
context, since a server may run it in the context of an earlier one, and leaves the one that it
found.
"""
