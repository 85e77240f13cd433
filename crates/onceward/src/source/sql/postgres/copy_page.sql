-- The next page of a batch that is being paged, as a COPY in binary form: rows visible in its
-- snapshot, not in the stored one, behind the last page. Sorting the whole batch again for each page
-- would be quadratic, so two streams in the order of seq: late ids below the main range by
-- outbox_tx_id_seq, everything from the main range's lowest seq on by the primary key.
--
-- The first row is none: it carries what the statement's own snapshot says, in columns that fit.
-- The last row may be one too many for the bytes; the reader sees so and leaves it.
--
-- COPY takes no parameters. What is put in for these is a number, or a snapshot written by us:
-- $1 stored snapshot   $2 its xip   $3 last passed seq   $4 rows + 1   $5 bytes
-- $6 snapshot of the batch   $7 last seq of the page before   $8 where the main range begins, or goes on
copy (
select null::bigint as seq,
       (select message_id from outbox where seq = $3) as message_id,
       pg_current_snapshot()::text as aggregate_type,
       pg_is_in_recovery()::text as aggregate_id,
       null::text as message_type, null::text as topic, null::text as message_key,
       null::bytea as payload, null::text as headers, null::bigint as occurred_at
union all
select seq, message_id, aggregate_type, aggregate_id, message_type, topic, message_key, payload,
       headers, occurred_at
from (
    select u.*,
           sum(octet_length(u.payload)) over (order by u.seq rows unbounded preceding)
               - octet_length(u.payload) as bytes_before
    from (
        (select o.* from (
             select l.seq
             -- "offset 0": by outbox_tx_id_seq, not along the primary key through passed rows.
             from (select seq from outbox
                   where tx_id = any ($2::text[]::xid8[])
                     and seq > $7 and seq < $8
                     and pg_visible_in_snapshot(tx_id, $6::pg_snapshot)
                   offset 0) l
             order by l.seq
             limit $4) late
         join outbox o on o.seq = late.seq
         order by o.seq)
        union all
        (select * from outbox
         where seq > $7 and seq >= $8
           and pg_visible_in_snapshot(tx_id, $6::pg_snapshot)
           and not pg_visible_in_snapshot(tx_id, $1::pg_snapshot)
         order by seq
         limit $4)
        order by seq
        limit $4
    ) u
) page
where bytes_before <= $5
) to stdout (format binary)
