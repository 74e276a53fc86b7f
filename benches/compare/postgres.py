"""The PostgreSQL server that both sides use: fresh databases, its CPU time, the statements it ran.

Whoever started it (scripts/with-services.sh) gave its address; durability is PostgreSQL's default. psql speaks to it, so
that nothing needs to be installed.
"""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from process import Failed, cpu_seconds, parent_of


def _psql():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql")) if Path("/usr/lib/postgresql").is_dir() else []
    return str(found[-1]) if found else shutil.which("psql")


class Postgres:
    def __init__(self, url):
        self.admin = url
        self.psql = _psql()
        if not self.psql:
            raise Failed("psql is missing; scripts/setup.sh postgres installs it")
        self.count, self.databases = 0, []
        self.version = self.ask("SHOW server_version")
        self.counts_statements = "pg_stat_statements" in self.ask("SHOW shared_preload_libraries")
        if self.counts_statements:
            self.ask("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            self.count_statements(False)
        # Elsewhere, or as another user, its processes cannot be seen and its CPU time is not told.
        self.pid = self._postmaster() if self._is_here() else None

    def _postmaster(self):
        """Every other process is its child; the checkpointer lives as long as the server does."""
        child = self.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        return parent_of(int(child)) if child else None

    def _is_here(self):
        return urlsplit(self.admin).hostname in ("127.0.0.1", "localhost", "::1") and os.path.isdir("/proc/self")

    def ask(self, *statements, url=None):
        """Runs statements, each a transaction of its own, and answers the last value as text."""
        command = [self.psql, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]
        for statement in statements:
            command += ["-c", statement]
        done = subprocess.run(
            [*command, url or self.admin], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failed(f"PostgreSQL refused {statements}: {done.stderr}")
        return done.stdout.strip()

    def fresh(self):
        """The URL of a new database; those of the runs before are dropped."""
        for name in self.databases:
            self.ask(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.databases.clear()
        return self.another()

    def another(self):
        """The URL of a new database beside the last one."""
        self.count += 1
        name = f"bench_{self.count}"
        self.databases.append(name)
        # No run pays for the dirty pages of the one before.
        self.ask(f"CREATE DATABASE {name}", "CHECKPOINT")
        return urlunsplit(urlsplit(self.admin)._replace(path=f"/{name}"))

    def settle(self, url):
        """As a database in service would be after a while: statistics are there, no dirty pages wait."""
        self.ask("VACUUM ANALYZE", "CHECKPOINT", url=url)

    def cpu_seconds(self):
        return cpu_seconds(self.pid) if self.pid else None

    def count_statements(self, on):
        """Counting costs a little, so it is on in one run that is not timed."""
        if self.counts_statements:
            self.ask(
                f"ALTER SYSTEM SET pg_stat_statements.track = '{'top' if on else 'none'}'", "SELECT pg_reload_conf()"
            )

    def statements(self):
        """Statements of clients so far, BEGIN and COMMIT included, in databases of the benchmark."""
        return int(
            self.ask(
                "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
                " WHERE d.datname LIKE 'bench\\_%'"
            )
        )
