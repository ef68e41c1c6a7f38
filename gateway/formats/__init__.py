"""How the control plane writes moments, for Django's FORMAT_MODULE_PATH."""
