"""Middleware for web frameworks: sets the audit context of each request.

proxies       the address that a request came from, behind proxies
request_info  a request as the arguments of `audit_context`, for all frameworks
asgi          Starlette and FastAPI
flask         Flask
aiohttp       aiohttp
django        Django and its logins, with django_models and django_settings

Only the module of a framework imports it. Each request starts with an empty audit context, since a
server may run it in the context of an earlier one, and leaves the one that it found.
"""
