from django.urls import path

from . import manage, tasks

urlpatterns = [
    path("runs", manage.RunsView.as_view()),
    path("runs/<str:run_id>", manage.RunView.as_view()),
    path("runs/<str:run_id>/events/<str:event_name>", manage.EventView.as_view()),
    path("tasks", tasks.TasksView.as_view()),
    path("tasks/<str:task_id>", tasks.OneTaskView.as_view()),
    path("tasks/<str:task_id>/answer", tasks.AnswerView.as_view()),
]
