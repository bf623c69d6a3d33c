# Two images: relay (worker and starter; the default) and demo (examples/shop).
#
#   docker build --tag outbox-relay .
#   docker build --target demo --tag outbox-relay-demo .

FROM golang:1.26.8-bookworm AS source
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-trimpath
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .

FROM source AS build-demo
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -ldflags=-s -o /out/shop ./examples/shop

FROM source AS build-relay
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -ldflags=-s -o /out/ ./worker ./starter

# Distroless has no version tags; nonroot is the user, 65532, and CA certificates
# are all it holds beside.
FROM gcr.io/distroless/static-debian13:nonroot AS demo
COPY --from=build-demo /out/shop /usr/local/bin/shop
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/shop"]

FROM gcr.io/distroless/static-debian13:nonroot AS relay
COPY --from=build-relay /out/worker /out/starter /usr/local/bin/
USER 65532:65532
CMD ["/usr/local/bin/worker"]
