// A file of its own: the page's policy permits no script inside of it.
SwaggerUIBundle({
  url: document.getElementById("api").dataset.description,
  domNode: document.getElementById("api"),
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  persistAuthorization: false,
});
