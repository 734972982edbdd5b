from django.urls import path

from . import proxy, views

urlpatterns = [
    path("integrations/tools", views.ToolsView.as_view()),
    path("integrations/execute", views.ExecuteView.as_view()),
    path("integrations/proxy/<toolkit:toolkit>/<rest:path>", proxy.forward),
    path("executions", views.ExecutionsView.as_view()),
    path("executions/<str:execution_id>", views.ExecutionView.as_view()),
]
