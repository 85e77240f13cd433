-- From where on the main range of a batch is read along the primary key; once per paged batch and connection. That is
-- behind the last page, if that one has come to rows of the main range: one look by outbox_tx_id_seq. Else the
-- batch is still among late ids, and it is the range's lowest seq: without "offset 0" min() would walk the primary
-- key from the oldest row that is kept.
-- $1 xmax of the stored snapshot   $2 snapshot of the batch   $3 last seq of the page before
select case
    when exists (
        select from outbox
        where tx_id >= $1::text::xid8
          and tx_id < pg_snapshot_xmax($2::text::pg_snapshot)
          and seq <= $3
          and pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot)
    ) then $3
    else (
        select min(u.seq)
        from (
            select seq from outbox
            where tx_id >= $1::text::xid8
              and tx_id < pg_snapshot_xmax($2::text::pg_snapshot)
              and pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot)
            offset 0
        ) u
    )
end
