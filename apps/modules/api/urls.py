"""Routes of modules, whose names may have slashes: what ends in a reserved word comes before what is only a name."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from . import views


class ModuleName(StringConverter):
    regex = ".+"


register_converter(ModuleName, "module")

urlpatterns = [
    path("modules", views.ModulesView.as_view()),
    path("modules/<module:name>/check", views.CheckView.as_view()),
    path("modules/<module:name>/publish", views.PublishView.as_view()),
    path("modules/<module:name>/unpublish", views.UnpublishView.as_view()),
    path("modules/<module:name>/rollback", views.RollbackView.as_view()),
    path("modules/<module:name>/rotate-key", views.RotateKeyView.as_view()),
    path("modules/<module:name>/versions", views.VersionsView.as_view()),
    path("modules/<module:name>/versions/<int:n>", views.VersionView.as_view()),
    path("modules/<module:name>", views.ModuleView.as_view()),
]
