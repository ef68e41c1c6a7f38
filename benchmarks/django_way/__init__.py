"""A reverse proxy as a Django developer would write it in an afternoon: an async view and one shared httpx client."""
