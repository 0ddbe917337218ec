"""Gives a new table the owner and the privileges of another one."""

from __future__ import annotations

from sqlalchemy import Connection, text


def give(connection: Connection, source: str, name: str) -> None:
    """Give a table the owner of another one: the role may be one of its members, or a superuser."""
    query = text(
        "SELECT CAST(CAST(relowner AS regrole) AS text) FROM pg_class WHERE oid = CAST(:source AS regclass) "
        "AND relowner <> (SELECT relowner FROM pg_class WHERE oid = CAST(:name AS regclass))"
    )
    owner = connection.scalar(query, {"source": source, "name": name})
    if owner is not None:
        connection.exec_driver_sql(f"ALTER TABLE {name} OWNER TO {owner}")


def grant_alike(connection: Connection, source: str, name: str) -> None:
    """Grant on a table what others may do with another one."""
    grants = text(
        "SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' "
        "ELSE CAST(CAST(a.grantee AS regrole) AS text) END, a.is_grantable FROM pg_class c, aclexplode(c.relacl) a "
        "WHERE c.oid = CAST(:source AS regclass) AND a.grantee <> c.relowner"
    )
    for privilege, role, is_grantable in connection.execute(grants, {"source": source}):
        option = " WITH GRANT OPTION" if is_grantable else ""
        connection.exec_driver_sql(f"GRANT {privilege} ON {name} TO {role}{option}")
