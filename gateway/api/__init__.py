"""The frame of the admin API: who may, what an error looks like, pages, ETags, idempotency, OpenAPI.

The resources themselves stand with their models: `routes.api`, `keys.api`, `dashboard.api`. A resource is an `ApiView`
that names a model or its permissions; everything else here comes with it.

    class Consumers(ApiView):
        model = Consumer                                    # GET needs view_consumer, POST add_consumer …
        listing = Listing(ordering=("username",), filters=(Filter("enabled", kind="boolean"),), search=("username",))

        def get(self, request: Request) -> Response:
            return self.listing.answer(request, Consumer.objects.all(), represent)

        @idempotent()
        def post(self, request: Request) -> Response: ...

Control plane only: the proxy role imports nothing of this.
"""
