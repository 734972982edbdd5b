from django.urls import path

from . import views, webhooks

urlpatterns = [
    path("user-tokens", views.UserTokensView.as_view()),
    path("settings", views.SettingsView.as_view()),
    path("webhooks", webhooks.WebhooksView.as_view()),
    path("webhooks/deliveries/<str:delivery_id>/redeliver", webhooks.RedeliverView.as_view()),
    path("webhooks/<str:webhook_id>", webhooks.WebhookView.as_view()),
    path("webhooks/<str:webhook_id>/rotate", webhooks.RotateView.as_view()),
    path("webhooks/<str:webhook_id>/deliveries", webhooks.DeliveriesView.as_view()),
    path("webhooks/<str:webhook_id>/deliveries/<str:delivery_id>/redeliver", webhooks.RedeliverOfWebhookView.as_view()),
]
