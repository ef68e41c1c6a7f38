"""Triggers that fill CredentialChange: any change, by any path, to what a worker would answer for a credential.

In the database because only there no path can forget: admin, API, cascades, bulk updates, psql. An update of
`last_used_at`, of a name or a note fires nothing. A row with neither digest nor consumer means everything (TRUNCATE).
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION keys_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    writer bigint := pg_current_xact_id()::text::bigint;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO keys_credentialchange (transaction) VALUES (writer);
    ELSIF TG_TABLE_NAME = 'keys_consumer' THEN
        INSERT INTO keys_credentialchange (transaction, consumer_id) VALUES (writer, OLD.id);
    ELSE
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO keys_credentialchange (transaction, digest) VALUES (writer, OLD.digest);
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.digest <> OLD.digest) THEN
            INSERT INTO keys_credentialchange (transaction, digest) VALUES (writer, NEW.digest);
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER key_made_or_deleted AFTER INSERT OR DELETE ON keys_apikey
    FOR EACH ROW EXECUTE FUNCTION keys_note_change();
CREATE TRIGGER key_changed AFTER UPDATE ON keys_apikey
    FOR EACH ROW WHEN ((OLD.id, OLD.digest, OLD.prefix, OLD.consumer_id, OLD.scopes, OLD.expires_at, OLD.revoked_at)
        IS DISTINCT FROM (NEW.id, NEW.digest, NEW.prefix, NEW.consumer_id, NEW.scopes, NEW.expires_at, NEW.revoked_at))
    EXECUTE FUNCTION keys_note_change();
CREATE TRIGGER keys_truncated AFTER TRUNCATE ON keys_apikey
    FOR EACH STATEMENT EXECUTE FUNCTION keys_note_change();

CREATE TRIGGER consumer_deleted AFTER DELETE ON keys_consumer
    FOR EACH ROW EXECUTE FUNCTION keys_note_change();
CREATE TRIGGER consumer_changed AFTER UPDATE ON keys_consumer
    FOR EACH ROW WHEN ((OLD.id, OLD.username, OLD.custom_id, OLD.groups, OLD.enabled)
        IS DISTINCT FROM (NEW.id, NEW.username, NEW.custom_id, NEW.groups, NEW.enabled))
    EXECUTE FUNCTION keys_note_change();
"""

BACKWARD = """
DROP TRIGGER consumer_changed ON keys_consumer;
DROP TRIGGER consumer_deleted ON keys_consumer;
DROP TRIGGER keys_truncated ON keys_apikey;
DROP TRIGGER key_changed ON keys_apikey;
DROP TRIGGER key_made_or_deleted ON keys_apikey;
DROP FUNCTION keys_note_change();
"""


class Migration(migrations.Migration):
    dependencies = [("keys", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
