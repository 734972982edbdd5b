"""The admin's pages of a project's own toolkits."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from apps.toolkits.models import OwnToolkit
from apps.toolkits.services import put, read_document
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import User
from tests.cast import Cast
from tests.toolkits.test_own_toolkits import WAREHOUSE

pytestmark = pytest.mark.django_db
ADD = "/admin/toolkits/owntoolkit/add/"
TEXT = "name: Warehouse\nbase_url: https://warehouse.example\nauth: [{type: api_key}]\n"


def signed_in(user: User) -> Client:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client = Client()
    client.force_login(user)
    return client


def form(cast: Cast, **changes: Any) -> dict[str, Any]:
    return {"project": cast.project.pk, "slug": "warehouse", "text": TEXT} | changes


def test_a_toolkit_is_written_as_yaml_and_leads_to_switching_it_on(cast: Cast) -> None:
    client = signed_in(cast.alice)
    assert client.post(ADD, form(cast)).status_code == 302
    row = OwnToolkit.objects.get()
    assert row.document["name"] == "Warehouse"
    page = client.get(f"/admin/toolkits/owntoolkit/{row.pk}/change/")
    assert "https://warehouse.example" in page.content.decode()
    led = client.post(f"/admin/toolkits/owntoolkit/{row.pk}/do/enable/", follow=True)
    assert led.status_code == 200
    assert "Warehouse" in led.content.decode()
    made = client.post(led.redirect_chain[-1][0], {"display_name": "Depot"}, follow=True)
    assert made.status_code == 200
    assert cast.project.integrations.get().toolkit == "warehouse"
    assert client.get("/admin/connections/integration/catalog/warehouse/").status_code in {200, 404}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a: [", "expected", id="no yaml"),
        pytest.param("- 1", "mapping", id="a list"),
        pytest.param("a: &x [1]\nb: *x", "references", id="references"),
        pytest.param("name: 2020-01-01", "dates in quotes", id="a date"),
        pytest.param(TEXT + "colour: red\n", "colour", id="an unknown key"),
        pytest.param(TEXT.replace("api_key", "magic"), "auth", id="an unknown kind"),
    ],
)
def test_what_is_wrong_is_said_on_the_form(cast: Cast, text: str, said: str) -> None:
    answer = signed_in(cast.alice).post(ADD, form(cast, text=text))
    assert answer.status_code == 200
    assert said in answer.content.decode()
    assert not OwnToolkit.objects.exists()


def test_who_is_of_another_workspace_sees_none(cast: Cast) -> None:
    row = put(cast.project, "warehouse", WAREHOUSE, SYSTEM)
    client = signed_in(cast.charlie)
    assert "warehouse" not in client.get("/admin/toolkits/owntoolkit/").content.decode()
    assert client.get(f"/admin/toolkits/owntoolkit/{row.pk}/change/").status_code == 404
    assert client.post(ADD, form(cast)).status_code == 200
    assert OwnToolkit.objects.count() == 1


def test_a_viewer_reads_and_changes_nothing(cast: Cast) -> None:
    row = put(cast.project, "warehouse", WAREHOUSE, SYSTEM)
    client = signed_in(cast.bob)
    assert "warehouse.example" in client.get(f"/admin/toolkits/owntoolkit/{row.pk}/change/").content.decode()
    assert client.post(f"/admin/toolkits/owntoolkit/{row.pk}/change/", {"text": TEXT}).status_code == 403
    assert client.get(ADD).status_code == 403


def test_deleting_is_the_services_work(cast: Cast) -> None:
    row = put(cast.project, "warehouse", WAREHOUSE, SYSTEM)
    client = signed_in(cast.alice)
    assert client.post(f"/admin/toolkits/owntoolkit/{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not OwnToolkit.objects.exists()
    cast.project.refresh_from_db()
    assert cast.project.toolkits_version == 2


def test_references_that_stand_for_very_much_are_refused_at_once() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for index in range(1, 30):
        before, name = f"a{index - 1}" if index > 1 else "a", f"a{index}"
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    with pytest.raises(ValueError, match="references"):
        read_document(bomb)
