"""Background work of the execution log."""

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from .models import Execution

BATCH = 5000


@shared_task(name="runs.forget_old")  # type: ignore[untyped-decorator] # celery has no types
def forget_old() -> int:
    """Deletes executions past their time, in batches so that no statement holds the table for long."""
    limit = timezone.now() - timedelta(days=settings.JACKFIELD_EXECUTION_DAYS)
    total = 0
    while True:
        old = list(Execution.objects.filter(created_at__lt=limit).values_list("pk", flat=True)[:BATCH])
        if not old:
            return total
        total += Execution.objects.filter(pk__in=old).delete()[0]
