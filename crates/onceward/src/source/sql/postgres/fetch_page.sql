-- The next page of a batch that is being paged: rows visible in its snapshot, not in the stored
-- one, behind the last page. Sorting the whole batch again for each page would be quadratic, so
-- two streams in the order of seq: late ids below the main range by outbox_tx_id_seq, everything
-- from the main range's lowest seq on by the primary key.
-- $1 stored snapshot   $2 its xip   $3 last passed seq   $4 rows + 1   $5 bytes
-- $6 snapshot of the batch   $7 last seq of the page before   $8 lowest seq of the main range
with page as (
    select o.*,
           count(*) over () as page_rows,
           row_number() over (order by o.seq) as place,
           sum(octet_length(o.payload)) over (order by o.seq) as bytes
    from (
        select u.*
        from (
            (select o.* from (
                 select l.seq
                 -- "offset 0": by outbox_tx_id_seq, not along the primary key through passed rows.
                 from (select seq from outbox
                       where tx_id = any ($2::text[]::xid8[])
                         and seq > $7 and seq < $8
                         and pg_visible_in_snapshot(tx_id, $6::text::pg_snapshot)
                       offset 0) l
                 order by l.seq
                 limit $4) late
             join outbox o on o.seq = late.seq)
            union all
            (select * from outbox
             where seq > $7 and seq >= $8
               and pg_visible_in_snapshot(tx_id, $6::text::pg_snapshot)
               and not pg_visible_in_snapshot(tx_id, $1::text::pg_snapshot)
             order by seq
             limit $4)
        ) u
        order by u.seq
        limit $4
    ) o
)
select null::bigint as seq,
       (select message_id from outbox where seq = $3) as message_id,
       null::text as aggregate_type, null::text as aggregate_id, null::text as message_type,
       null::text as topic, null::text as message_key, null::bytea as payload,
       null::text as headers, null::bigint as occurred_at,
       null::bigint as page_rows,
       n.cur::text as current,
       null::text as highest_tx_id,
       false as is_foreign,
       pg_is_in_recovery() as standby
from (select pg_current_snapshot() as cur offset 0) n
union all
select seq, message_id, aggregate_type, aggregate_id, message_type, topic, message_key, payload,
       headers, occurred_at, page_rows, null, null, null, null
from page
where bytes <= $5 or place = 1
