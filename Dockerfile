FROM python:3.11-slim
WORKDIR /srv
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN useradd --system --uid 10001 hydragate && install -d -o hydragate /data
USER hydragate
ENV GATEWAY_DATA_DIR=/data GATEWAY_BIND=0.0.0.0
VOLUME /data
ENTRYPOINT ["python", "manage.py"]
CMD ["serve"]
