from django.urls import path

from . import deliveries, manage, tasks

urlpatterns = [
    path("runs", manage.RunsView.as_view()),
    path("runs/<str:run_id>", manage.RunView.as_view()),
    path("runs/<str:run_id>/events/<str:event_name>", manage.EventView.as_view()),
    path("deliveries", deliveries.DeliveriesView.as_view()),
    path("deliveries/redeliver", deliveries.RedeliverAllView.as_view()),
    path("deliveries/<str:sink_delivery_id>", deliveries.DeliveryView.as_view()),
    path("deliveries/<str:sink_delivery_id>/redeliver", deliveries.RedeliverView.as_view()),
    path("webhook-secret", deliveries.SecretView.as_view()),
    path("webhook-secret/rotate", deliveries.RotateView.as_view()),
    path("tasks", tasks.TasksView.as_view()),
    path("tasks/<str:task_id>", tasks.OneTaskView.as_view()),
    path("tasks/<str:task_id>/answer", tasks.AnswerView.as_view()),
]
