# One image for every process: outbox-relay, shop (all services) and the command onceward.
# ./dev check image does these steps without Docker.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libssl-dev zlib1g-dev pkg-config
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bins -p outbox-relay -p shop -p onceward-cli \
    && mkdir /out && cp target/release/outbox-relay target/release/shop target/release/onceward /out/ \
    && strip --strip-debug /out/*

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libssl3 zlib1g ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home onceward
COPY --from=build /out/ /usr/local/bin/
USER onceward
CMD ["shop", "--help"]
