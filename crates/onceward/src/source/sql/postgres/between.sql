-- Ids of the rows that one cursor has passed and an earlier one has not (outbox_tx_id_seq). Rows of the
-- earlier one's page that it has passed are told apart by the index alone: there may be millions.
-- $1 xmax of the earlier   $2 its xip   $3 $4 $5 the earlier: done, page, last seq
-- $6 $7 $8 the later: done, page, last seq   $9 xip of the earlier's page
select o.message_id
from (
    (select seq, tx_id, message_id from outbox
     where tx_id >= $1::text::xid8
       and tx_id < greatest(pg_snapshot_xmax($6::text::pg_snapshot),
                            pg_snapshot_xmax($7::text::pg_snapshot))
       and seq > coalesce($5, -1)
     offset 0)
    union all
    -- At or below the page's last seq, so not of the page: later than its snapshot, or running in it.
    (select seq, tx_id, message_id from outbox
     where tx_id >= pg_snapshot_xmax($4::text::pg_snapshot)
       and tx_id < greatest(pg_snapshot_xmax($6::text::pg_snapshot),
                            pg_snapshot_xmax($7::text::pg_snapshot))
       and seq <= $5
     offset 0)
    union all
    (select seq, tx_id, message_id from outbox
     where tx_id = any ($9::text[]::xid8[]) and tx_id >= $1::text::xid8
       and tx_id < pg_snapshot_xmax($4::text::pg_snapshot)
       and seq <= $5
     offset 0)
    union all
    (select seq, tx_id, message_id from outbox
     where tx_id = any ($2::text[]::xid8[]) and tx_id < $1::text::xid8
     offset 0)
) o
where (pg_visible_in_snapshot(o.tx_id, $6::text::pg_snapshot)
       or coalesce(pg_visible_in_snapshot(o.tx_id, $7::text::pg_snapshot) and o.seq <= $8, false))
  and not pg_visible_in_snapshot(o.tx_id, $3::text::pg_snapshot)
  and not coalesce(pg_visible_in_snapshot(o.tx_id, $4::text::pg_snapshot) and o.seq <= $5, false)
