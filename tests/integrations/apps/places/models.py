"""A recorded model, and a child of it, which is not named in the settings."""

from django.db import models


class Place(models.Model):
    name: "models.CharField[str, str]" = models.CharField(max_length=20, unique=True)
    friends: "models.ManyToManyField[Place, Place]" = models.ManyToManyField("self")


class Inn(Place):
    beds: "models.IntegerField[int, int]" = models.IntegerField(default=1)
