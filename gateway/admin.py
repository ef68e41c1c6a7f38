"""Who may come in, and what they did: users and groups in the theme's forms, and the audit trail of everything."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from keys.trail import Audited, steps

admin.site.unregister([User, Group])

ACTIONS = {ADDITION: "added", CHANGE: "changed", DELETION: "deleted"}


@admin.register(Permission)
class PermissionAdmin(ModelAdmin):
    """Only to be searched by the forms of users and groups."""

    search_fields = ("name", "codename", "content_type__app_label")
    ordering = ("content_type__app_label", "codename")
    list_select_related = ("content_type",)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Permission | None = None) -> bool:
        wanted = ("auth.view_permission", "auth.change_user", "auth.add_group", "auth.change_group")
        return any(request.user.has_perm(permission) for permission in wanted)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Permission | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Permission | None = None) -> bool:
        return False


@admin.register(User)
class UserAdmin(Audited, DjangoUserAdmin, ModelAdmin):
    form, add_form, change_password_form = UserChangeForm, UserCreationForm, AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "group_names", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser", "groups")
    filter_horizontal = ()
    autocomplete_fields = ("groups", "user_permissions")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        rows: QuerySet[User] = super().get_queryset(request)
        return rows.prefetch_related("groups")

    @admin.display(description="groups")
    def group_names(self, user: User) -> str:
        return ", ".join(group.name for group in user.groups.all())


@admin.register(Group)
class GroupAdmin(Audited, DjangoGroupAdmin, ModelAdmin):
    list_display = ("name", "user_count")
    filter_horizontal = ()
    autocomplete_fields = ("permissions",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        rows: QuerySet[Group] = super().get_queryset(request)
        return rows.annotate(user_total=Count("user"))

    @admin.display(description="users", ordering="user_total")
    def user_count(self, group: Any) -> int:
        return int(group.user_total)


class ActionFilter(admin.SimpleListFilter):
    title, parameter_name = "action", "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, word) for word in ACTIONS.values()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[LogEntry]) -> QuerySet[LogEntry]:
        flags = [flag for flag, word in ACTIONS.items() if word == self.value()]
        return queryset.filter(action_flag__in=flags) if flags else queryset


@admin.register(LogEntry)
class TrailAdmin(ModelAdmin):
    """Nobody changes it, superusers included."""

    list_display = ("when", "user", "action", "kind", "thing", "words")
    list_display_links = ("when",)
    list_filter = (ActionFilter, "content_type", "user")
    list_select_related = ("user", "content_type")
    search_fields = ("object_repr", "user__username")
    fields = ("when", "user", "action", "kind", "thing", "before_and_after")
    readonly_fields = fields
    sortable_by = ()
    ordering = ("-action_time", "-id")
    list_per_page = 50
    show_full_result_count = False

    @admin.display(description="when")
    def when(self, entry: LogEntry) -> str:
        return format_html('<span class="whitespace-nowrap">{}</span>', f"{entry.action_time:%Y-%m-%d %H:%M:%S}")

    @display(description="action", label={"added": "success", "changed": "info", "deleted": "danger"})
    def action(self, entry: LogEntry) -> str:
        return ACTIONS.get(entry.action_flag, "changed")

    @admin.display(description="kind")
    def kind(self, entry: LogEntry) -> str:
        return entry.content_type.name if entry.content_type else ""

    @admin.display(description="object")
    def thing(self, entry: LogEntry) -> str:
        address = None if entry.is_deletion() else entry.get_admin_url()
        if address is None:
            return entry.object_repr
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', address, entry.object_repr
        )

    @admin.display(description="what")
    def words(self, entry: LogEntry) -> str:
        first = next(steps(entry), None)
        if first is None:
            return ""
        fields = ", ".join(field for field, _, _ in first.fields)
        return f"Changed {fields}." if fields and first.words == "Changed." else first.words

    @admin.display(description="what")
    def before_and_after(self, entry: LogEntry) -> SafeString:
        return mark_safe(render_to_string("admin/steps.html", {"steps": steps(entry)}))  # noqa: S308 (a template's)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: LogEntry | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: LogEntry | None = None) -> bool:
        return False
