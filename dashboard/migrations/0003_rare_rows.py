"""Finds the newest of the rows that are few: those that did not end well.

Without it, a list of them reads a day of requests to find fifty. Rows that ended well are not in it and pay nothing.
Indexes of the partitioned table become indexes of each partition, also of those made later. Building them locks out the
recorder for the time it takes (a second for each few million rows kept); segments wait on disk, nothing is lost.
"""

from django.db import migrations

INDEXES = """
CREATE INDEX usage_row_outcome ON usage_row (outcome, at, id) WHERE outcome <> 'ok';
CREATE INDEX usage_row_class ON usage_row ((status / 100), at, id) WHERE status >= 300;
"""


class Migration(migrations.Migration):
    dependencies = [("dashboard", "0002_usage_sql")]

    operations = [migrations.RunSQL(INDEXES, "DROP INDEX usage_row_outcome, usage_row_class;")]
