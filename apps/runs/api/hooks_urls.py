from django.urls import path

from . import hooks

urlpatterns = [path("hooks/<str:hook_token>", hooks.HookView.as_view())]
