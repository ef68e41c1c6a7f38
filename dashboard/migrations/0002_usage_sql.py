"""What Django cannot say: the partitioned table, and room for in-place updates of rollups.

Indexes of usage_row are few, for each costs every request a microsecond: newest first (the key), one request by its id,
a route's and a consumer's newest. Rows arrive in the order of `id`, so BRIN finds one for next to nothing.
"""

from django.db import migrations

USAGE_ROW = """
CREATE SEQUENCE usage_row_id_seq AS bigint CACHE 64;
CREATE TABLE usage_row (
    id bigint NOT NULL DEFAULT nextval('usage_row_id_seq'),
    at timestamptz NOT NULL,
    config_version bigint NOT NULL,
    route_id bigint,
    upstream_id bigint,
    consumer_id bigint,
    key_id bigint,
    bytes_in bigint NOT NULL,
    bytes_out bigint NOT NULL,
    duration_ms real NOT NULL,
    gateway_ms real NOT NULL,
    upstream_ms real,
    status smallint NOT NULL,
    tries smallint NOT NULL,
    client_ip inet,
    request_id text NOT NULL,
    node text NOT NULL,
    worker text NOT NULL,
    method text NOT NULL,
    host text NOT NULL,
    path text NOT NULL,
    outcome text NOT NULL,
    detail text NOT NULL,
    target text NOT NULL,
    cache_status text NOT NULL,
    PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
ALTER SEQUENCE usage_row_id_seq OWNED BY usage_row.id;
CREATE INDEX usage_row_id ON usage_row USING brin (id) WITH (pages_per_range = 32);
CREATE INDEX usage_row_request ON usage_row (request_id);
CREATE INDEX usage_row_route ON usage_row (route_id, at);
CREATE INDEX usage_row_consumer ON usage_row (consumer_id, at) WHERE consumer_id IS NOT NULL;
CREATE TABLE usage_row_default PARTITION OF usage_row DEFAULT;
"""

# Rows of the current minute, hour and day are updated a few times a second: in place, where the page has room.
ROOM = """
ALTER TABLE usage_traffic SET (fillfactor = 70);
ALTER TABLE usage_latency SET (fillfactor = 50);
ALTER TABLE usage_calls SET (fillfactor = 70);
"""


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0001_usage")]

    operations = [
        migrations.RunSQL(USAGE_ROW, "DROP TABLE usage_row;"),
        migrations.RunSQL(ROOM, migrations.RunSQL.noop),
    ]
