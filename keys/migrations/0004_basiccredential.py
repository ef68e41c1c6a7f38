"""Usernames with passwords, and triggers that tell workers of every change to one: as in 0002, by its owner's id.

One that is made is not told of: a worker that was asked for it before knows it 5 s later.
"""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

FORWARD = """
CREATE FUNCTION keys_note_owner() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    writer bigint := pg_current_xact_id()::text::bigint;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO keys_credentialchange (transaction) VALUES (writer);
    ELSE
        INSERT INTO keys_credentialchange (transaction, consumer_id) VALUES (writer, OLD.consumer_id);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER basic_deleted AFTER DELETE ON keys_basiccredential
    FOR EACH ROW EXECUTE FUNCTION keys_note_owner();
CREATE TRIGGER basic_changed AFTER UPDATE ON keys_basiccredential
    FOR EACH ROW WHEN ((OLD.id, OLD.username, OLD.password, OLD.consumer_id)
        IS DISTINCT FROM (NEW.id, NEW.username, NEW.password, NEW.consumer_id))
    EXECUTE FUNCTION keys_note_owner();
CREATE TRIGGER basics_truncated AFTER TRUNCATE ON keys_basiccredential
    FOR EACH STATEMENT EXECUTE FUNCTION keys_note_owner();
"""

BACKWARD = """
DROP TRIGGER basics_truncated ON keys_basiccredential;
DROP TRIGGER basic_changed ON keys_basiccredential;
DROP TRIGGER basic_deleted ON keys_basiccredential;
DROP FUNCTION keys_note_owner();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("keys", "0003_admintoken"),
    ]

    operations = [
        migrations.CreateModel(
            name="BasicCredential",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "username",
                    models.CharField(
                        help_text="What the client sends; case counts. No colon.", max_length=128, unique=True
                    ),
                ),
                ("password", models.CharField(editable=False, help_text="scrypt of the password.", max_length=200)),
                (
                    "created_at",
                    models.DateTimeField(auto_now_add=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                (
                    "consumer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="basic_credentials",
                        to="keys.consumer",
                    ),
                ),
            ],
            options={
                "verbose_name": "basic credential",
                "ordering": ["username"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("username__regex", "^\\S(.*\\S)?$"), ("username__regex", "^[^:[:cntrl:]]*$")
                        ),
                        name="basiccredential_username_clean",
                        violation_error_message="A username is not empty and has no colon, control characters or outer blanks.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("password__startswith", "scrypt$")),
                        name="basiccredential_password_is_hashed",
                    ),
                ],
            },
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
