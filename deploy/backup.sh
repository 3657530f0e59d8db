#!/bin/bash
# Write a backup of the databases and of the object store to /backups/DATE, while the servers run.
# The databases come first: objects are only added, so every object that a dumped row names is in the archive.
set -euo pipefail

name=$(date --utc +%Y-%m-%dT%H%M%SZ)
part="/backups/.$name.part"
umask 077
mkdir --parents "$part"
for database in mlflow mlflow_auth prefect; do
  pg_dump --format=custom --file="$part/$database.dump" "$database"
done
tar --create --file="$part/objects.tar" --directory=/objects .
sync "$part"/*
mv "$part" "/backups/$name"
echo "$name"
