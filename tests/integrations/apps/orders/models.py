"""Customers, and their orders."""

from typing import Any

from django.contrib.auth.models import User
from django.db import models

from ledger_client.integrations.django_bulk import AuditedManager


class Customer(models.Model):
    user: "models.ForeignKey[User, User]" = models.ForeignKey(User, models.CASCADE, null=True)
    email: "models.CharField[str, str]" = models.CharField(max_length=40)
    iban: "models.CharField[str, str]" = models.CharField(max_length=40, default="DE00")
    note: "models.CharField[str, str]" = models.CharField(max_length=40, default="none")
    friends: "models.ManyToManyField[Any, Any]" = models.ManyToManyField("self")

    def __str__(self) -> str:
        return f"customer of {self.email}" if self.note == "shown" else f"customer {self.pk}"


class Order(models.Model):
    customer: "models.ForeignKey[Customer | None, Customer | None]" = models.ForeignKey(
        Customer, models.SET_NULL, null=True
    )
    payer: "models.ForeignKey[Customer | None, Customer | None]" = models.ForeignKey(
        Customer, models.SET_DEFAULT, null=True, default=None, related_name="paid"
    )
    state: "models.CharField[str, str]" = models.CharField(max_length=20, default="new")
    total: "models.IntegerField[int, int]" = models.IntegerField(default=0)

    objects = AuditedManager()

    class Meta:
        base_manager_name = "objects"

    def __str__(self) -> str:
        return f"order {self.total}"


class Invoice(models.Model):
    """A model whose writes of many rows go unseen."""

    total: "models.IntegerField[int, int]" = models.IntegerField(default=0)


class Setting(models.Model):
    """A model whose `name` tells what its `value` is."""

    name: "models.CharField[str, str]" = models.CharField(max_length=40)
    value: "models.CharField[str, str]" = models.CharField(max_length=40)

    objects = AuditedManager()

    class Meta:
        base_manager_name = "objects"

    def __str__(self) -> str:
        if self.name == "nameless":
            raise ValueError
        return self.name


class ApiKey(models.Model):
    """A model whose own name tells what its `value` is."""

    value: "models.CharField[str, str]" = models.CharField(max_length=40)

    objects = AuditedManager()

    class Meta:
        base_manager_name = "objects"


class Token(models.Model):
    """A model whose primary key is a secret."""

    key: "models.CharField[str, str]" = models.CharField(max_length=40, primary_key=True)
    uses: "models.IntegerField[int, int]" = models.IntegerField(default=0)
    customers: "models.ManyToManyField[Any, Any]" = models.ManyToManyField(Customer)

    objects = AuditedManager()

    class Meta:
        base_manager_name = "objects"

    def __str__(self) -> str:
        return self.key
