-- The same for two cursors in one page, along the primary key: a page may have millions of rows, and a mirror is a second
-- old.
-- $1 stored snapshot   $2 snapshot of the page   $3 last seq of the earlier   $4 of the later
select message_id
from outbox
where seq > $3 and seq <= $4
  and pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot)
  and not pg_visible_in_snapshot(tx_id, $1::text::pg_snapshot)
