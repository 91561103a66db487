"""Web frameworks: who acts, from where and in which request, known to all that is recorded.

django, flask, asgi (Starlette, FastAPI), aiohttp: one module a framework, and only that one imports
it. `requests` reads a request for all of them, `proxies` finds the address that it came from.
"""
