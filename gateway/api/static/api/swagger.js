// Swagger UI on our schema. "Try it out" works with the session one is logged in with, hence the CSRF field.
const cookie = (name) => document.cookie.split("; ").find((pair) => pair.startsWith(`${name}=`))?.split("=")[1];

window.SwaggerUIBundle({
  url: document.getElementById("reader").dataset.schema,
  dom_id: "#reader",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null, // the default asks a foreign host
  requestInterceptor: (request) => {
    if (request.method !== "GET") request.headers["X-CSRFToken"] = cookie("csrftoken");
    return request;
  },
});
