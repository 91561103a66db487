"""Audited views of Django and of DRF that end in many ways, and Django's admin."""

import functools
from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from ledger_client import audited

order = audited(
    "order.sent",
    target=lambda order: ("order", order),
    changes=lambda: [{"path": "/state", "after": "sent"}],
)


def fails_afterwards(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Fail as a transaction that can't be committed."""

    @functools.wraps(view)
    def run(*args: Any, **kwargs: Any) -> HttpResponse:
        view(*args, **kwargs)
        raise RuntimeError("not committed")

    return run


@order
def by_status(request: HttpRequest, order: str) -> HttpResponse:
    return HttpResponse(status=int(request.GET["status"]))


@order
async def by_status_async(request: HttpRequest, order: str) -> HttpResponse:
    return HttpResponse(status=int(request.GET["status"]))


@order
def missing(_: HttpRequest, order: str) -> HttpResponse:
    raise Http404


@order
def to_login(_: HttpRequest, order: str) -> HttpResponse:
    return redirect("/accounts/login/?next=/")


@order
def to_order(_: HttpRequest, order: str) -> HttpResponse:
    return redirect(f"/orders/{order}")


@login_required
@order
def guarded(_: HttpRequest, order: str) -> HttpResponse:
    return HttpResponse()


@fails_afterwards
@order
def not_committed(_: HttpRequest, order: str) -> HttpResponse:
    return HttpResponse()


@method_decorator(login_required, name="dispatch")
class Guarded(View):
    @order
    def get(self, _: HttpRequest, order: str) -> HttpResponse:
        return HttpResponse()


class GuardedAPI(APIView):  # type: ignore[misc] # DRF has no types
    permission_classes = (IsAuthenticated,)

    @order
    def get(self, request: Request, order: str) -> Response:
        return Response(status=int(request.query_params["status"]))


class GuardedSet(ViewSet):  # type: ignore[misc] # DRF has no types
    permission_classes = (IsAuthenticated,)

    @order
    def retrieve(self, _: Request, order: str) -> Response:
        return Response()


@api_view(["GET"])  # type: ignore[untyped-decorator] # DRF has no types
@permission_classes([IsAuthenticated])  # type: ignore[untyped-decorator] # DRF has no types
@order
def guarded_function(_: Request, order: str) -> Response:
    return Response()


VIEWS: dict[str, Any] = {
    "status": by_status,
    "status_async": by_status_async,
    "missing": missing,
    "to_login": to_login,
    "to_order": to_order,
    "guarded": guarded,
    "not_committed": not_committed,
    "class": Guarded.as_view(),
    "drf": GuardedAPI.as_view(),
    "drf_set": GuardedSet.as_view({"get": "retrieve"}),
    "drf_function": guarded_function,
}
urlpatterns: list[Any] = [
    path("admin/", admin.site.urls),
    *(path(f"views/{name}/<order>", view) for name, view in VIEWS.items()),
]
