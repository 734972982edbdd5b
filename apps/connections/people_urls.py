"""An end user's own keys: `/api-keys`, and the page on which they look after them."""

from django.urls import path

from . import people
from .api import personal_keys

urlpatterns = [
    path("api-keys", personal_keys.KeysView.as_view()),
    path("api-keys/links", personal_keys.LinksView.as_view()),
    path("api-keys/<str:key_id>", personal_keys.KeyView.as_view()),
    path("me/enter/<str:token>", people.enter, name="me_enter"),
    path("me/keys", people.keys, name="me_keys"),
    path("me/keys/<str:key_id>/revoke", people.revoke, name="me_key_revoke"),
    path("me/leave", people.leave, name="me_leave"),
]
