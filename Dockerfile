# hearthd, the hearth command line and the shipped local program, in one image.
#
#   docker build -t hearth:local .
#
# Dependencies are compiled in a layer of their own. It depends on the manifests, the lock file and
# the names of the crates' root files, not on what is in them: a change of code does not rebuild it.
# Written for the classic builder and for BuildKit alike, so without cache mounts.

# What cargo needs to see a workspace: the manifests, and an empty program in place of every root
# file. This stage runs at each change, but its result stays the same bytes, so the next one is reused.
FROM rust:1.95-slim-trixie AS skeleton
WORKDIR /src
COPY . .
RUN mkdir /skeleton \
 && cp --parents Cargo.toml Cargo.lock */Cargo.toml /skeleton/ \
 && find . -regex '\./[^/]*/\(src/lib\|src/main\|src/bin/[^/]*\|src/bin/[^/]*/main\|benches/[^/]*\)\.rs' \
  | while read -r root; do \
      mkdir -p "/skeleton/$(dirname "$root")"; \
      echo '#![allow(warnings)] fn main() {}' >"/skeleton/$root"; \
    done

FROM rust:1.95-slim-trixie AS build
WORKDIR /src
# jemalloc is built with make.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
COPY --from=skeleton /skeleton .
RUN cargo build --release --locked -p hearth-node -p hearth-cli --bins
COPY . .
# The sources may be older than the empty programs just built, and cargo goes by time.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --release --locked -p hearth-node -p hearth-cli --bins

FROM debian:trixie-slim
LABEL org.opencontainers.image.title="hearth" \
      org.opencontainers.image.description="Raft-replicated key-value store and compute endpoints" \
      org.opencontainers.image.licenses="Apache-2.0"
# The number is fixed, so that the owner of a volume stays the same from image to image.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin hearth \
 && install -d -o hearth -g hearth -m 0750 /data
COPY --from=build /src/target/release/hearthd /src/target/release/hearth /src/target/release/very_important_value \
     /usr/local/bin/
ENV HEARTH_DATA_DIR=/data
WORKDIR /data
VOLUME /data
# HTTP; peers.
EXPOSE 8080 7080
USER 10001:10001
ENTRYPOINT ["hearthd"]
