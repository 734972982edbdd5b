"""The pages of people whom runs ask something."""

from django.urls import path

from .pages import questions, session, start

urlpatterns = [
    path("s/task/<str:token>", questions.by_link, name="task_link"),
    path("s/<str:public_id>", start.start, name="module_start"),
    path("s/<str:public_id>/sessions/<str:session_id>", session.page, name="session_page"),
    path("s/<str:public_id>/sessions/<str:session_id>/state", session.state, name="session_state"),
    path("inbox", questions.inbox, name="inbox"),
    path("inbox/<str:task_id>", questions.in_inbox, name="inbox_task"),
]
