-- Rows that a cursor has not passed, up to a cap: what is left of its page along the primary key, so that the rows of
-- it that are passed cost nothing, then what came after the page (outbox_tx_id_seq).
-- $1 xmax of the stored snapshot   $2 its xip   $3 snapshot of the page, or null   $4 last seq of the page
-- $5 cap   $6 xmax of the page's snapshot, or without page $1   $7 its xip, or $2
select count(*), min(o.occurred_at)
from (
    select u.occurred_at
    from (
        (select occurred_at from outbox
         where seq > $4
           and (tx_id >= $1::text::xid8 or tx_id = any ($2::text[]::xid8[]))
           and pg_visible_in_snapshot(tx_id, $3::text::pg_snapshot)
         order by seq
         limit $5)
        union all
        (select occurred_at from outbox where tx_id >= $6::text::xid8 offset 0)
        union all
        (select occurred_at from outbox
         where tx_id = any ($7::text[]::xid8[]) and tx_id < $6::text::xid8 offset 0)
    ) u
    limit $5
) o
