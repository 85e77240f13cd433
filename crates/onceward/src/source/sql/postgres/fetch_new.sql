-- Rows visible in the snapshot taken now and not in the stored one, in one statement and thus in
-- one snapshot, without a transaction id of its own. Index ranges of outbox_tx_id_seq, united: as
-- an OR, or as a plain visibility predicate, this scans (300 ms at 2 M rows instead of 0.3).
-- The ranges are read index-only and sorted as bare numbers; rows are joined after the limit.
-- "offset 0" keeps the planner from walking the primary key instead.
-- Uncommitted rows are walked in vain (0.6 s for 200,000), so ids known to run for long are cut
-- out of the ranges and looked up one by one once they have ended.
-- $1 $6 ranges of ids, from xmax of the stored snapshot on   $2 its xip, and the ids cut out
-- $3 last passed seq   $4 rows + 1   $5 bytes   $7 whether to look for foreign ids
with now as materialized (
    select s.cur, pg_snapshot_xmax(s.cur) as xmax
    from (select pg_current_snapshot() as cur) s
),
ranges as materialized (
    select r.lo, least(r.hi, n.xmax) as hi
    from now n, unnest($1::text[]::xid8[], $6::text[]::xid8[]) r(lo, hi)
),
ended as materialized (
    select array(select x from unnest($2::text[]::xid8[]) x
                 where pg_visible_in_snapshot(x, n.cur)) as ids
    from now n
),
page as (
    select o.*,
           count(*) over () as page_rows,
           row_number() over (order by o.seq) as place,
           sum(octet_length(o.payload)) over (order by o.seq) as bytes
    from (
        select u.seq
        from (
            (select m.seq
             from ranges r
             cross join lateral (
                 select seq from outbox
                 where tx_id >= r.lo
                   and tx_id < r.hi
                   and pg_visible_in_snapshot(tx_id, (select cur from now))
                 offset 0) m)
            union all
            (select seq from outbox
             where tx_id = any ((select ids from ended)::xid8[])
             offset 0)
        ) u
        order by u.seq
        limit $4
    ) page_seq
    join outbox o on o.seq = page_seq.seq
)
select null::bigint as seq,
       (select message_id from outbox where seq = $3) as message_id,
       null::text as aggregate_type, null::text as aggregate_id, null::text as message_type,
       null::text as topic, null::text as message_key, null::bytea as payload,
       null::text as headers, null::bigint as occurred_at,
       null::bigint as page_rows,
       n.cur::text as current,
       -- Qualified: a bare tx_id would mean the output column, and sort the text.
       (select h.tx_id::text
        from (
            (select t.tx_id
             from ranges r
             cross join lateral (
                 select b.tx_id from outbox b
                 where b.tx_id >= r.lo
                   and b.tx_id < r.hi
                   and pg_visible_in_snapshot(b.tx_id, (select cur from now))
                 order by b.tx_id desc
                 limit 1) t)
            union all
            (select t.tx_id
             from unnest((select ids from ended)) x
             cross join lateral (select b.tx_id from outbox b where b.tx_id = x limit 1) t)
        ) h
        order by h.tx_id desc
        limit 1) as highest_tx_id,
       -- The highest one by the index: as "exists" it is a scan through all rows that are kept.
       case when $7 then (select b.tx_id from outbox b
                          where b.tx_id >= (select xmax from now)
                          order by b.tx_id desc
                          limit 1) is not null
            else false end as is_foreign,
       pg_is_in_recovery() as standby
from now n
union all
select seq, message_id, aggregate_type, aggregate_id, message_type, topic, message_key, payload,
       headers, occurred_at, page_rows, null, null, null, null
from page
where bytes <= $5 or place = 1
