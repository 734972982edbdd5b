"""Identifiers."""

from __future__ import annotations

import pytest
from django.contrib.admin.utils import unquote

from apps.lib import ids


@pytest.mark.parametrize("make", [ids.project_id, ids.connection_id])
def test_the_admin_reads_an_id_as_it_stands(make: object) -> None:
    assert callable(make)
    made = [make() for _ in range(5000)]
    assert [unquote(text) for text in made] == made
