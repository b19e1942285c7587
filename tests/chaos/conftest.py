def pytest_addoption(parser):
    parser.addoption(
        "--chaos-full",
        action="store_true",
        default=False,
        help="kill every process of the stack in turn during 200 payments, not a few during 30",
    )
