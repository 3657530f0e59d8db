#!/bin/bash
# Read the backup /backups/DATE into servers that are new: databases without tables and an empty object store.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -f "/backups/$1/objects.tar" ]; then
  echo "error: there is no backup '${1:-}' in deploy/backups; name one of: $(ls /backups | tr '\n' ' ')" >&2
  exit 1
fi
for database in mlflow mlflow_auth prefect; do
  tables=$(psql --dbname="$database" --tuples-only --no-align --command="select count(*) from pg_tables where schemaname = 'public'")
  if [ "$tables" != 0 ]; then
    echo "error: the database $database has $tables tables, but a backup is restored into new servers only; stop the servers and remove the volumes, or use another machine" >&2
    exit 1
  fi
done
if [ -n "$(find /objects -type f -print -quit)" ]; then
  echo "error: the object store has files, but a backup is restored into new servers only; remove its volume, or use another machine" >&2
  exit 1
fi
for database in mlflow mlflow_auth prefect; do
  pg_restore --exit-on-error --dbname="$database" "/backups/$1/$database.dump"
done
tar --extract --file="/backups/$1/objects.tar" --directory=/objects
echo "restored $1"
