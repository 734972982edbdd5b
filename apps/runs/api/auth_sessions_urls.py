from typing import Any

from django.urls import path

from . import auth_sessions as views


def _below(prefix: str, of: dict[str, Any]) -> list[Any]:
    session = f"{prefix}/auth-sessions/<str:auth_session_id>"
    return [
        path(f"{prefix}/auth-sessions", of["sessions"].as_view()),
        path(f"{prefix}/auth-sessions/create", of["create"].as_view()),
        path(f"{prefix}/auth-sessions/create/<str:operation_id>/result", of["create_result"].as_view()),
        path(f"{prefix}/auth-sessions/update/<str:operation_id>/result", of["update_by_operation"].as_view()),
        path(f"{prefix}/auth-sessions/validate/<str:operation_id>/result", of["validate_by_operation"].as_view()),
        path(session, of["session"].as_view()),
        path(f"{session}/update", of["update"].as_view()),
        path(f"{session}/update/<str:operation_id>/result", of["update_result"].as_view()),
        path(f"{session}/validate/start", of["validate"].as_view()),
        path(f"{session}/validate/<str:operation_id>/result", of["validate_result"].as_view()),
    ]


def below(plain: str, clients: str) -> list[Any]:
    """The routes at both of the Runs API's prefixes."""
    names = ("sessions", "create", "create_result", "session", "update", "update_result", "validate", "validate_result",
             "update_by_operation", "validate_by_operation")  # fmt: skip
    camel = {name: "".join(part.capitalize() for part in name.split("_")) for name in names}
    return [
        *_below(plain, {name: getattr(views, f"{camel[name]}View") for name in names}),
        *_below(clients, {name: getattr(views, f"Client{camel[name]}View") for name in names}),
    ]
