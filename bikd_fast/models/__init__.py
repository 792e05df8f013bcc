"""The networks: frozen backbone, adapted teacher, students, and the detector that is made of them."""
