-- Rows that a cursor has not passed, up to a cap (outbox_tx_id_seq).
-- $1 xmax   $2 xip   $3 page, or null   $4 last seq of the page   $5 cap
select count(*), min(o.occurred_at)
from (
    select u.occurred_at
    from (
        (select seq, tx_id, occurred_at from outbox where tx_id >= $1::text::xid8 offset 0)
        union all
        (select seq, tx_id, occurred_at from outbox
         where tx_id = any ($2::text[]::xid8[]) and tx_id < $1::text::xid8 offset 0)
    ) u
    where not coalesce(pg_visible_in_snapshot(u.tx_id, $3::text::pg_snapshot) and u.seq <= $4, false)
    limit $5
) o
