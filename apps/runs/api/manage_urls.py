from django.urls import path

from . import manage

urlpatterns = [
    path("runs", manage.RunsView.as_view()),
    path("runs/<str:run_id>", manage.RunView.as_view()),
    path("runs/<str:run_id>/events/<str:event_name>", manage.EventView.as_view()),
]
