-- Lowest seq of a batch's main range; once per paged batch. Index-only on outbox_tx_id_seq:
-- without "offset 0" min() would walk the primary key from the oldest row that is kept.
-- $1 xmax of the stored snapshot   $2 snapshot of the batch
select min(u.seq)
from (
    select seq from outbox
    where tx_id >= $1::text::xid8
      and tx_id < pg_snapshot_xmax($2::text::pg_snapshot)
      and pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot)
    offset 0
) u
