"""Sinks: where runs' results go. A webhook or an S3 bucket, of a run, of a job, or a project's default.

A sink is kept by the Runs API's names: ``{type: webhook, url, headers?, skipOnFail?, apisToSend?}`` or ``{type: s3, bucket,
accessKeyId, secretAccessKey, region, prefix?, skipOnFail?, apisToSend?, endpoint?, forcePathStyle?}``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from apps.workspaces.models import Project

from .models import Run

Sink = dict[str, Any]


def clean(given: Any) -> Sink:
    """The sink as it is stored. Raises `InvalidInput`, its details by member (``url``, ``bucket``). Owner S."""
    raise NotImplementedError


def masked(sink: Sink | None) -> Sink | None:
    """As the API reads it back: secretAccessKey and the values of webhook headers are ``********``. Owner S."""
    raise NotImplementedError


def unmasked(given: Sink, stored: Sink | None) -> Sink:
    """A sink that somebody sends back as it was read: what is masked in it is as it was stored. Owner S."""
    raise NotImplementedError


def default_of(project: Project) -> Sink | None:
    """The project's default sink. Costs no query where ``project.settings`` has no ``hasSink``. Owner S."""
    return None


def write_delivery(run: Run, now: datetime) -> None:
    """In the transaction that ended the run: the row of its delivery, unless skipOnFail or apisToSend leave it out. Owner S."""
