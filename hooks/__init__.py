"""The built-in plugins, one module for each concern of the request. They use nothing that other plugins cannot use."""
