"""Published versions are facts: triggers, so that no code path, shell or psql session can rewrite one by mistake."""

from django.db import migrations

CREATE = """
CREATE FUNCTION routes_configversion_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.live THEN
            RAISE EXCEPTION 'version % is live and cannot be deleted', OLD.number USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END IF;
    -- A version may stop being live, and forget a parent that was pruned. Nothing else about it changes.
    IF NEW.live AND NOT OLD.live THEN
        RAISE EXCEPTION 'version % cannot become live again; publish its document as a new one', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.parent_id IS NOT NULL AND NEW.parent_id IS DISTINCT FROM OLD.parent_id)
       OR (NEW.id, NEW.number, NEW.document, NEW.digest, NEW.author, NEW.source, NEW.comment, NEW.created_at)
          IS DISTINCT FROM
          (OLD.id, OLD.number, OLD.document, OLD.digest, OLD.author, OLD.source, OLD.comment, OLD.created_at)
    THEN
        RAISE EXCEPTION 'version % is published and cannot be changed', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER routes_configversion_keep BEFORE UPDATE OR DELETE ON routes_configversion
    FOR EACH ROW EXECUTE FUNCTION routes_configversion_keep();

-- At most one live version is the unique index's business; that there is one, this trigger's, at commit.
CREATE FUNCTION routes_configversion_one_live() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM routes_configversion) AND NOT EXISTS (SELECT 1 FROM routes_configversion WHERE live) THEN
        RAISE EXCEPTION 'one version must be live' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER routes_configversion_one_live AFTER INSERT OR UPDATE ON routes_configversion
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION routes_configversion_one_live();
"""

DROP = """
DROP TRIGGER routes_configversion_one_live ON routes_configversion;
DROP TRIGGER routes_configversion_keep ON routes_configversion;
DROP FUNCTION routes_configversion_one_live();
DROP FUNCTION routes_configversion_keep();
"""


class Migration(migrations.Migration):
    dependencies = [("routes", "0001_initial")]
    operations = [migrations.RunSQL(CREATE, DROP)]
